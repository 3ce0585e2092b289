"""The page of `worldlab play`: one game for each open page, and what is saved of a game.

commands.py   what the page may send
frames.py     what the page gets: moments, futures and codes as messages with pictures
game.py       one game: runs the session, paces it, carries out commands
film.py       a game as an animated WebP
export.py     futures as a static page that opens from a file
"""
