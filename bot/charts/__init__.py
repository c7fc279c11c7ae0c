"""Values → PNG. Drawn in worker processes only: matplotlib is imported in canvas.py, at use.

canvas.py      the figure, its colours, labels that keep apart, saving
placing.py     where a label hides nothing
loss.py        loss by training step
confusion.py   expected labels against answers
lengths.py     tokens per row
labels.py      rows per label
ladder.py      quality against dollars per 1,000 requests
curve.py       quality against rows
costs.py       net dollars month by month
tornado.py     which input moves the net value most"""
