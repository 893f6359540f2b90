FROM --platform=windows/amd64 busybox AS w
FROM busybox
COPY --from=w / /
