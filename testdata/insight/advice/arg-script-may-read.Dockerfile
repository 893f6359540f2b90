FROM debian
ARG VERSION
RUN ./install.sh
RUN apt-get install -y make
LABEL version=$VERSION
