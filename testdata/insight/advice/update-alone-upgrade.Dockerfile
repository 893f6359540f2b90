FROM debian
RUN apt-get update && apt-get -y upgrade
RUN yum update -y
