mkdir -p s/repo/sub s/lib s/super; cd s
echo 1 >f; mkdir p; echo 2 >p/g; tar --mtime=@0 --owner=3 --group=4 -czf a.tgz p
export GIT_AUTHOR_DATE='1000000000 +0000' GIT_COMMITTER_DATE='1000000000 +0000'
commit() { git add -A; git -c user.name=x -c user.email=x commit -q -m "$1"; }
cd repo; git init -q -b main
echo 1 >x; echo 2 >sub/y; ln -s x l; echo 3 >.dockerignore; chmod 755 x
commit one; git tag v1
echo 4 >x; commit two; git branch side
cd ../lib; git init -q -b main; echo 5 >z; commit lib
cd ../super; git init -q -b main; echo 6 >own
printf '[submodule "lib"]\n\tpath = lib\n\turl = ../lib\n' >.gitmodules
git update-index --add --cacheinfo "160000,$(git -C ../lib rev-parse HEAD),lib"; git add own .gitmodules
git -c user.name=x -c user.email=x commit -q -m super
