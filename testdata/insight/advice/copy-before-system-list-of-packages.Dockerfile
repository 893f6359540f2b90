#> packages.txt 1000
#> main.c 1000
FROM debian
WORKDIR /src
COPY . .
RUN apt-get update && apt-get install -y $(cat packages.txt)
