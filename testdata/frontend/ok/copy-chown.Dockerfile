#> build-arg=U=app
FROM busybox
ARG U
COPY --chown=$U:web a /a
COPY --chown=1000 a /a
COPY --chown=:5 a /a
COPY --chown=0:0 --from=busybox a /a
ADD --chown=app a /a
COPY --chown=$UNSET a /a
