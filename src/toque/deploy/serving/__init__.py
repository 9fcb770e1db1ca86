"""A model that answers over HTTP.

limits    what a request may cost, and which files are looked at
batching  waiting requests -> batches for the model
replies   the JSON of each task
reloading a newer model in the place of the old one, between two batches
metrics   counts and times for Prometheus
access    who may ask, the headers and the log line of every answer
service   what happens to a request
app       the routes; openapi, what they say of themselves
server    listening, and ending without losing a request
"""
