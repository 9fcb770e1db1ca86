"""The report of a run: one self-contained HTML file that needs no network.

    data = ReportData(title="flowers", metrics=rows, classes=names, confusion=matrix)
    write(Path("runs/flowers/report.html"), data)

contents.py    what a report is made of: ReportData, Picture
page.py        the page: contents -> HTML text -> file
lines.py       line charts            axes.py     ticks, and numbers as text
scatter.py     predicted beside true
confusion.py   who is taken for whom  images.py   arrays -> pictures inside the page
page.html, parts.html, style.css      the template

toque.train imports this package only when a report is written; Jinja and Pillow are imported only
inside its functions.
"""

from toque.train.report.contents import Doubtful, Learnt, Picture, ReportData
from toque.train.report.images import denormalise
from toque.train.report.page import render, write

__all__ = ["Doubtful", "Learnt", "Picture", "ReportData", "denormalise", "render", "write"]
