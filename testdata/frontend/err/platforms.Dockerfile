ARG P
FROM --platform=$P busybox AS a
FROM --platform=$BUILDPLATFROM busybox AS b
FROM --platform=a/b/c/d busybox AS c
