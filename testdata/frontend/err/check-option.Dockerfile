# check=skipp=X
FROM busybox
