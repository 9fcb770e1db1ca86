// Choose, drop, paste or photograph a picture; ask /predict; show the answer. No library, no network
// but this server's own.
const part = (id) => document.getElementById(id);
const TOP = 5;
let token = sessionStorage.getItem("token") || "";
let last = null; // the picture to send again once a token is there
let asked = 0; // only the newest question may be answered on the page
let shown = null; // the address of the picture
let looked = null; // the address of the picture of where the network looked
let answer = ""; // the class that the page shows
let explains = false;

const headers = () => (token ? { Authorization: `Bearer ${token}` } : {});
const percent = (share) => `${(100 * share).toFixed(1)} %`;

function fail(sentence) {
  part("state").textContent = "";
  part("result").hidden = true;
  part("mistake").textContent = sentence;
  part("mistake").hidden = false;
}

async function describe() {
  const response = await fetch("/model", { headers: headers() }).catch(() => null);
  if (response?.status === 401) return askForToken();
  if (!response?.ok) return;
  const model = await response.json();
  explains = model.explains;
  part("model").textContent = `${model.name}: ${model.labels.length} classes, ` +
    model.labels.slice(0, 8).join(", ") + (model.labels.length > 8 ? " …" : "");
}

function askForToken() {
  part("access").hidden = false;
  part("token").focus();
}

async function ask(picture) {
  last = picture;
  const number = ++asked;
  part("mistake").hidden = true;
  part("state").textContent = "Looking …";
  let response;
  try {
    response = await fetch(`/predict?top=${TOP}`, {
      method: "POST", body: picture,
      headers: { "Content-Type": "application/octet-stream", ...headers() },
    });
  } catch {
    return number === asked && fail("The server does not answer. Is it still running?");
  }
  if (number !== asked) return;
  if (response.status === 401) {
    part("state").textContent = "";
    return askForToken();
  }
  const said = await response.json().catch(() => ({}));
  if (number !== asked) return;
  if (!response.ok) {
    return fail(typeof said.detail === "string" ? said.detail : `The server answered ${response.status}.`);
  }
  show(picture, said);
}

function show(picture, said) {
  for (const address of [shown, looked]) if (address) URL.revokeObjectURL(address);
  shown = URL.createObjectURL(picture);
  looked = null;
  answer = said.label;
  part("look").hidden = !explains;
  part("look").setAttribute("aria-pressed", "false");
  part("picture").src = shown;
  part("picture").alt = picture.name ? `The picture you sent, ${picture.name}` : "The picture you sent";
  part("answer").textContent = `${said.label}, ${percent(said.confidence)}`;
  part("classes").replaceChildren(...Object.entries(said.probabilities).map(([name, share]) => {
    const row = document.createElement("tr");
    const label = document.createElement("th");
    label.scope = "row";
    label.textContent = name;
    const cell = document.createElement("td");
    const bar = document.createElement("div");
    bar.className = "bar";
    bar.style.width = `${100 * share}%`;
    const number = document.createElement("span");
    number.textContent = percent(share);
    cell.append(bar, number);
    row.append(label, cell);
    return row;
  }));
  part("time").textContent = `Answered in ${said.milliseconds} ms`;
  part("state").textContent = "";
  part("result").hidden = false;
  part("result").focus();
}

async function look() {
  const number = asked;
  part("mistake").hidden = true;
  part("state").textContent = "Looking …";
  const response = await fetch(`/explain?label=${encodeURIComponent(answer)}`, {
    method: "POST", body: last,
    headers: { "Content-Type": "application/octet-stream", ...headers() },
  }).catch(() => null);
  if (number !== asked) return false;
  part("state").textContent = "";
  if (!response?.ok) {
    const said = await response?.json().catch(() => ({}));
    part("mistake").textContent = typeof said?.detail === "string" ? said.detail
      : "The server does not answer. Is it still running?";
    part("mistake").hidden = false;
    return false;
  }
  const picture = await response.blob();
  if (number !== asked) return false;
  looked = URL.createObjectURL(picture);
  return true;
}

part("look").addEventListener("click", async () => {
  const pressed = part("look").getAttribute("aria-pressed") === "true";
  if (!pressed && !looked && !(await look())) return;
  part("look").setAttribute("aria-pressed", String(!pressed));
  part("picture").src = pressed ? shown : looked;
  part("picture").alt = pressed ? "The picture you sent"
    : `The picture in gray, red where the network looked for ${answer}`;
});

part("file").addEventListener("change", (event) => {
  if (event.target.files.length) ask(event.target.files[0]);
  event.target.value = ""; // so that the same file can be chosen again
});

addEventListener("paste", (event) => {
  if (event.target.closest?.("input")) return;
  const picture = [...event.clipboardData.files][0];
  if (picture) ask(picture);
  else fail("There is no picture in the clipboard.");
});

for (const name of ["dragover", "dragleave", "drop"]) {
  addEventListener(name, (event) => {
    event.preventDefault();
    part("drop").classList.toggle("over", name === "dragover");
    if (name !== "drop") return;
    const picture = event.dataTransfer.files[0];
    if (picture) ask(picture);
    else fail("Drop a file: a link or a text has no picture in it.");
  });
}

part("access").addEventListener("submit", (event) => {
  event.preventDefault();
  token = part("token").value;
  sessionStorage.setItem("token", token);
  part("access").hidden = true;
  describe();
  if (last) ask(last);
});

let stream = null;

function closeCamera() {
  stream?.getTracks().forEach((track) => track.stop());
  stream = null;
  part("viewfinder").hidden = true;
  part("camera").focus();
}

part("camera").addEventListener("click", async () => {
  part("mistake").hidden = true;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch {
    return fail("There is no camera, or it may not be used here. Browsers allow it on localhost and over https.");
  }
  part("video").srcObject = stream;
  part("viewfinder").hidden = false;
  await part("video").play();
  part("shoot").focus();
});

part("shoot").addEventListener("click", () => {
  const video = part("video");
  const canvas = document.createElement("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext("2d").drawImage(video, 0, 0);
  canvas.toBlob((picture) => { closeCamera(); ask(picture); }, "image/jpeg", 0.92);
});

part("stop").addEventListener("click", closeCamera);
describe();
