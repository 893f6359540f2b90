FROM busybox
ADD https://example.com/x.tar.gz /x
ADD git@github.com:a/b.git /x
ADD --checksum=sha256:24454f830cdb571e2c4ad15481119c43b3cafd48dd869a9b2945d1036d1dc68d https://example.com/x /x
ADD --link a /a
ADD --exclude=*.md a /a
COPY --link a /a
COPY --parents a /a
COPY --exclude=*.md a /a
COPY --chmod=u=rwX,go=rX a /a
RUN --mount=type=cache,target=/c true
RUN --security=insecure true
RUN --device=vendor.com/gpu true
RUN <<EOF
#!/usr/bin/env python3
print(1)
EOF
