FROM debian
ARG COMMIT
RUN apt-get update && apt-get install -y curl
