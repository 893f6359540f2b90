FROM busybox
WORKDIR /
WORKDIR /a/b
WORKDIR c
USER app
WORKDIR ../d/
USER 1000:1000
WORKDIR /e/$PATH
RUN pwd
COPY x y/
COPY x .
COPY x /abs/../other/.
