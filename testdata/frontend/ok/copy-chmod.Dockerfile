#> build-arg=MODE=g+w
FROM busybox
ARG MODE
COPY --chmod=755 a /a
COPY --chmod=07777 a /a
COPY --chmod=u=rwX,go=rX a /a
COPY --chmod=$MODE a /a
COPY --chmod=$UNSET a /a
ADD --chmod=+x a /a
COPY --chmod=0600 <<EOF /h
text
EOF
