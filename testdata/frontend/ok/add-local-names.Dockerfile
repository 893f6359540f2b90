FROM busybox
ADD github.com/a/b /x
ADD ./git@host:x /x
ADD a@b /x
COPY HTTP://x/y /x
