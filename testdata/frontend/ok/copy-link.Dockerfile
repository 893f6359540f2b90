#> build-arg=ID=7
FROM busybox
ARG ID
WORKDIR /w
COPY --link a b /dest/
COPY --link --chmod=u=rwX,go=rX --chown=1000:$ID a /a
COPY --link=false a /b
ADD --link a.tar /c
COPY --link --from=busybox /bin/sh rel
RUN true
