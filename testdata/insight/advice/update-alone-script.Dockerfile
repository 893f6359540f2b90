FROM debian
RUN apt-get update && /tmp/install.sh
