FROM debian
ARG COMMIT
ENV COMMIT=$COMMIT
RUN apt-get update && apt-get install -y curl
