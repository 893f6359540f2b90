#> allow=security.insecur
#> allow=device=
FROM busybox
