#> main.py 1000
FROM debian
ONBUILD COPY . /app
ONBUILD RUN apt-get update && apt-get install -y x
