FROM debian
RUN apt-get update && for p in a b; do apt-get install -y $p; done
