#> main.py 1000
FROM debian
ARG DIRECTORY=/app
COPY . $DIRECTORY
ARG DIRECTORY=/other
RUN apt-get update && apt-get install -y x
