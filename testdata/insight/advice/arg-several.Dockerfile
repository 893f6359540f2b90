FROM debian
ARG VERSION=dev
ARG COMMIT REVISION=none
RUN apt-get update && apt-get install -y make
RUN apt-get install -y gcc
COPY . /src
RUN make -C /src VERSION=$VERSION
LABEL commit=$COMMIT
