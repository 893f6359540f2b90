FROM debian
ARG VERSION
RUN apt-get update && apt-get install -y app=${VERSION}
