FROM busybox
COPY --chmod=888 a /a
COPY --chmod=10000 a /a
COPY --chmod=u+q a /a
ADD --chmod=x a /a
