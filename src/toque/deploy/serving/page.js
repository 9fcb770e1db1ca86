// Choose, drop, paste or photograph a picture; ask /predict; show the answer. No library, no network
// but this server's own.
const part = (id) => document.getElementById(id);
const TOP = 5;
let token = sessionStorage.getItem("token") || "";
let last = null; // the picture to send again once a token is there
let asked = 0; // only the newest question may be answered on the page
let shown = null; // the address of the picture
let looked = null; // the address of the picture of where the network looked
let answer = ""; // the class that the page shows, or the name of the number
let explains = false;
let query = ""; // of a model with probabilities, as many as the page shows
const MOST_PX = 1024; // of the picture with its mask

const headers = () => (token ? { Authorization: `Bearer ${token}` } : {});
const percent = (share) => `${(100 * share).toFixed(1)} %`;

function fail(sentence) {
  part("state").textContent = "";
  part("result").hidden = true;
  part("mistake").textContent = sentence;
  part("mistake").hidden = false;
}

async function describe() {
  const response = await fetch("model", { headers: headers() }).catch(() => null);
  if (response?.status === 401) return askForToken();
  if (!response?.ok) return;
  const model = await response.json();
  explains = model.explains;
  query = ["classification", "multilabel"].includes(model.task) ? `?top=${TOP}` : "";
  const kind = { multilabel: "labels", regression: "numbers" }[model.task] || "classes";
  part("model").textContent = `${model.name}: ${model.labels.length} ${kind}, ` +
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
    response = await fetch(`predict${query}`, {
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

async function show(picture, said) {
  for (const address of [shown, looked]) if (address) URL.revokeObjectURL(address);
  shown = URL.createObjectURL(picture);
  looked = null;
  part("look").setAttribute("aria-pressed", "false");
  part("picture").src = shown;
  part("picture").alt = picture.name ? `The picture you sent, ${picture.name}` : "The picture you sent";
  part("look").hidden = !explains && !said.mask;
  if (said.mask) await showMask(picture, said);
  else if (said.numbers) showNumbers(said.numbers);
  else showLabels(said);
  part("time").textContent = `Answered in ${said.milliseconds} ms`;
  part("state").textContent = "";
  part("result").hidden = false;
  part("result").focus();
}

function showLabels(said) {
  answer = said.label;
  part("answer").textContent = `${said.label}, ${percent(said.confidence)}`;
  part("heads").replaceChildren(head("Class"), head("Probability"));
  part("caption").textContent = "The most probable classes";
  part("classes").replaceChildren(
    ...Object.entries(said.probabilities).slice(0, TOP).map(([name, share]) => row(name, percent(share), share)));
}

function showNumbers(numbers) {
  const rows = Object.entries(numbers);
  answer = rows[0][0];
  part("answer").textContent = rows.slice(0, 3).map(([name, value]) => `${name} ${short(value)}`).join(", ");
  part("heads").replaceChildren(head("Number"), head("Value"));
  part("caption").textContent = "The numbers";
  part("classes").replaceChildren(...rows.map(([name, value]) => row(name, short(value))));
}

async function showMask(picture, said) {
  const rows = Object.entries(said.shares).filter(([, share]) => share > 0).sort((a, b) => b[1] - a[1]);
  part("answer").textContent = rows.slice(0, 3).map(([name, share]) => `${name} ${percent(share)}`).join(", ");
  part("heads").replaceChildren(head("Class"), head("Share of the pixels"));
  part("caption").textContent = "The share of each class";
  part("classes").replaceChildren(
    ...rows.map(([name, share]) => row(name, percent(share), share, said.colours[name])));
  part("look").textContent = "Show the mask";
  const number = asked;
  const blended = await blend(picture, said.mask).catch(() => null);
  if (number !== asked || !blended) return;
  looked = URL.createObjectURL(blended);
  press(true);
}

const short = (value) => String(Number(value.toPrecision(5)));

function head(name) {
  const cell = document.createElement("th");
  cell.scope = "col";
  cell.textContent = name;
  return cell;
}

function row(name, value, share, colour) {
  const line = document.createElement("tr");
  const label = document.createElement("th");
  label.scope = "row";
  if (colour) {
    const patch = document.createElement("i");
    patch.className = "patch";
    patch.style.background = colour;
    label.append(patch);
  }
  label.append(name);
  const cell = document.createElement("td");
  if (share !== undefined) {
    const bar = document.createElement("div");
    bar.className = "bar";
    bar.style.width = `${100 * share}%`;
    cell.append(bar);
  }
  const number = document.createElement("span");
  number.textContent = value;
  cell.append(number);
  line.append(label, cell);
  return line;
}

// The picture with its mask over it; the first class, which is black, stays as it is.
async function blend(picture, address) {
  const mask = new Image();
  mask.src = address;
  await mask.decode();
  const below = await createImageBitmap(picture);
  const scale = Math.min(1, MOST_PX / Math.max(mask.width, mask.height));
  const [width, height] = [mask.width, mask.height].map((side) => Math.max(1, Math.round(side * scale)));
  const canvas = new OffscreenCanvas(width, height);
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  pen.imageSmoothingEnabled = false; // a class number between two others would be a third one
  pen.drawImage(mask, 0, 0, width, height);
  const pixels = pen.getImageData(0, 0, width, height);
  for (let at = 0; at < pixels.data.length; at += 4) {
    const black = !pixels.data[at] && !pixels.data[at + 1] && !pixels.data[at + 2];
    pixels.data[at + 3] = black ? 0 : 140;
  }
  pen.putImageData(pixels, 0, 0);
  pen.globalCompositeOperation = "destination-over";
  pen.imageSmoothingEnabled = true;
  pen.drawImage(below, 0, 0, width, height);
  return canvas.convertToBlob();
}

function press(on) {
  part("look").setAttribute("aria-pressed", String(on));
  part("picture").src = on ? looked : shown;
  part("picture").alt = !on ? "The picture you sent"
    : answer ? `The picture in gray, red where the network looked for ${answer}`
      : "The picture with the colour of its class on each pixel";
}

async function look() {
  const number = asked;
  part("mistake").hidden = true;
  part("state").textContent = "Looking …";
  const response = await fetch(`explain?label=${encodeURIComponent(answer)}`, {
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
  press(!pressed);
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
