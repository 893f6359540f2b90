FROM a
CMD echo  $HOME
ENTRYPOINT exec \
  top
EXPOSE 80 443/TCP $PORT 1-3
USER 1000:$GID
WORKDIR /a b/$c
VOLUME /a  /b
VOLUME ["/a", " /b c "]
STOPSIGNAL SIG${X}
SHELL ["/bin/bash", "-eo", "pipefail", "-c"]
MAINTAINER A B <a@example.com>
