ARG NODE=20
FROM debian
ARG NODE
ARG GO_VERSION=1.22
RUN apt-get update && apt-get install -y curl
RUN curl https://example.org/go-$GO_VERSION-$NODE
