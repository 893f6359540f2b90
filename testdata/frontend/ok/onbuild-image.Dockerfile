FROM onbuild AS child
RUN after
FROM child
RUN grandchild
#> build-arg=MODE=debug
