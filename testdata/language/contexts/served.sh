mkdir -p s/repo/sub; cd s
echo 1 >f; mkdir p; echo 2 >p/g; tar --mtime=@0 --owner=3 --group=4 -czf a.tgz p
cd repo; git init -q -b main
echo 1 >x; echo 2 >sub/y; ln -s x l; echo 3 >.dockerignore; chmod 755 x
export GIT_AUTHOR_DATE='1000000000 +0000' GIT_COMMITTER_DATE='1000000000 +0000'
git add -A; git -c user.name=x -c user.email=x commit -q -m one; git tag v1
echo 4 >x; git -c user.name=x -c user.email=x commit -q -a -m two; git branch side
