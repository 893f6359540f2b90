FROM alpine
RUN apk update \
    apk add curl
RUN apk add curl
