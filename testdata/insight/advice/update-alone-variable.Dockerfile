FROM debian
ARG PACKAGES
RUN apt-get update && $INSTALL
