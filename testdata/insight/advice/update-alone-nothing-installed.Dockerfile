FROM debian
RUN ["apt-get", "update"]
