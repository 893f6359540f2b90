FROM busybox
RUN one
SHELL ["/bin/bash", "-c"]
RUN two
CMD three
ENTRYPOINT four
HEALTHCHECK CMD five
