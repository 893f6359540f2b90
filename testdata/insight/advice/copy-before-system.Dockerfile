#> Makefile 1000
#> main.c 1000
FROM debian
COPY . /app
RUN apt-get update && apt-get install -y --no-install-recommends \
      curl \
      git \
 && rm -rf /var/lib/apt/lists/*
RUN curl -sSL https://example.org/key | gpg --dearmor -o /etc/apt/keyrings/x.gpg
RUN apt-get update && apt-get install -y x
RUN make -C /app
