#> etc/apt/sources.list.d/x.list 1000
#> app/main.py 1000
FROM debian
COPY . /
RUN apt-get update && apt-get install -y x
