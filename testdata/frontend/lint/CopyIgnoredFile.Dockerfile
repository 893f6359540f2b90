#> ignore=secret.txt *.log dir
FROM busybox
COPY secret.txt /
COPY ./a.log ok.txt /
ADD dir/file /
ADD https://x/a.log <<secret.txt /d/
secret.txt
COPY /secret.txt .. . /d/
COPY --from=busybox secret.txt /
RUN --mount=target=/x,source=secret.txt true
