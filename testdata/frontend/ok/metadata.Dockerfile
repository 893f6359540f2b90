FROM busybox
MAINTAINER Some One <some@one>
LABEL "com.example.quoted key"="a value" multi="line \
continued" plain=x
LABEL legacy some words
EXPOSE 443 53/udp 8000-8002
ENV PORTS="80 81"
EXPOSE $PORTS
VOLUME /data /more
VOLUME ["/json dir"]
STOPSIGNAL SIGQUIT
STOPSIGNAL ${SIG:-9}
USER ${U:-app}:web
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
RUN echo shell
CMD echo "shell form"
ENTRYPOINT exec top
HEALTHCHECK --interval=1m30s --timeout=500ms --start-period=1h --start-interval=2s --retries=3 CMD curl -f http://localhost/ || exit 1
