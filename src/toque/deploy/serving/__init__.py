"""A model that answers over HTTP.

limits    what a request may cost, and which files are looked at
batching  waiting requests -> batches for the model
questions what a query may ask of each task; many: several images in one request
replies   the JSON of each task
reloading a newer model in the place of the old one, between two batches
metrics   counts and times for Prometheus
access    who may ask, the headers and the log line of every answer
service   what happens to a request
app       the routes; openapi, what they say of themselves
connections listening, and bounds on slow and on many clients
accepting taking connections that other processes take, too
process   one process: ending without losing a request, and signals
workers   several, watched by one that answers nothing; worker: one of them
server    serve: one process or several behind an address; settings: what they are told
"""
