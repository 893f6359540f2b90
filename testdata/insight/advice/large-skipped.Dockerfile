# check=skip=LargeUnusedContextFile

#> a 1
#> data/x 20000000
FROM debian
COPY a /
