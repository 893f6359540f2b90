# check=skip=JSONArgsRecommended,StageNameCasing
FROM busybox AS Upper
CMD sh
# check=skip=SecretsUsedInArgOrEnv
ENV PASSWORD=x
RUN true
ENV TOKEN=x
