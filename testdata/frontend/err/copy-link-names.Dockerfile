FROM busybox
COPY --link --chown=app a /a
COPY --link --chown=1000:app a /a
ADD --link --chown=app:app a /a
COPY --link --chown=1000:1000 a /a
COPY --link=false --chown=app a /a
