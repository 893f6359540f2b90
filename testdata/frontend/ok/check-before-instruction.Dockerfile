FROM busybox
# check=skip=WorkdirRelativePath
WORKDIR a
# check=skip=JSONArgsRecommended;error=true
CMD one
# check=skip=all
MAINTAINER me
# Check = skip=LegacyKeyValueFormat
ENV A b
