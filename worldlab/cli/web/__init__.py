"""Serves the pages of `worldlab play` and `worldlab watch` to the browser of one person, and to nobody else.

    site.py      what is served: files, answers, and what happens on a websocket
    gate.py      who is served: Host, Origin and token of every request
    channel.py   one websocket: limits on what comes in, a bounded queue of what goes out
    server.py    the server, its address and its end

starlette, uvicorn and websockets come with the extra `worldlab[play]`; only functions import them.
"""
