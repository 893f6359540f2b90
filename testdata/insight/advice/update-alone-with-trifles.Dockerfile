FROM debian
RUN sed -i 's/deb.debian.org/mirror/' /etc/apt/sources.list && apt-get -qq update
RUN apt-get install -y curl
