FROM busybox
ENV X=no
COPY --exclude=*.md --exclude=!README.md a b/ /dest/
COPY --exclude=$X/** . /dest/
ADD --exclude=*.md . /dest/
COPY --parents --exclude=**/*.o src /dest/
