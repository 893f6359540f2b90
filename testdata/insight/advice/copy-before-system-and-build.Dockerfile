#> Makefile 1000
#> main.c 1000
FROM alpine
WORKDIR /src
COPY . .
RUN set -eux; apk add --no-cache gcc musl-dev; make; apk del gcc
