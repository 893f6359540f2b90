# check=skip=all
FROM busybox
MAINTAINER $A <a@b>
