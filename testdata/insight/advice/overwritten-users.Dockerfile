#> passwd 1000
#> other 1000
#> x 1000
FROM scratch
COPY passwd /etc/passwd
COPY --chown=app x /x
COPY other /etc/passwd
