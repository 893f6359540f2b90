FROM busybox AS base
FROM busybox
COPY --parents a/b/c.txt /dest/
COPY --parents ./a/b /dest/
COPY --parents a/./b/c /dest/
COPY --parents /a/./b/./c /dest/
COPY --parents **/*.txt src/*/ /dest/
COPY --parents pkg*/./x /dest/
COPY --parents --from=base /etc/./passwd /dest/
COPY --parents . /dest/
COPY --parents=false a/b /dest/
COPY --parents --chown=1:2 --chmod=600 a /dest/
