FROM busybox as build
