FROM busybox
EXPOSE http 70000 80/http 9-8 host:1:1
STOPSIGNAL SIGNOPE
STOPSIGNAL 0
VOLUME $NOPE
COPY --chmod=999 a /a
COPY --chmod=10000 a /a
COPY --chmod=hello a /a
RUN []
