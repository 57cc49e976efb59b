// Package localvolume makes persistent volumes on the disk of this host when
// they are first used, and deletes them when their claim is gone.
//
// Provisioner is the API's side: what an external provisioner of Kubernetes is,
// one on each host, for claims whose selected node is this host. Backend is who
// makes the storage; Directories is the one there is, a directory for each
// volume below the daemon's data directory. A CSI driver can be another.
//
// What always holds:
//
//   - A volume's name is pvc-UID of its claim, so that whoever makes it twice
//     (after a crash, or on two hosts that two schedulers chose during a split)
//     makes the same object. The object that stays in the API after the merge
//     names the host that has the volume; a directory on another host is taken
//     away only by rmdir: with anything in it, it stays and is reported.
//   - A directory and its entry are on the disk before the volume's object is
//     written. A volume whose directory is gone is never given an empty one.
//   - Data is deleted only on the host that has it, after the volume is
//     Released, the API has been asked once more for the claim, and no pod of
//     the host has the volume; by a rename first, so that what is seen by its
//     name is whole or not there. A host that is down does it when it is back.
//   - Nothing outside the volumes' directory is touched, whatever an object says.
//
// It acts as storageclass.User, who may write volumes and claims and read
// little else. The daemon in cmd/shoal calls New and Run once.
package localvolume
